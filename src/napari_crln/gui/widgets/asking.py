"""Questions in dialogs; the sections hold `confirmed` as an attribute, so that tests can answer."""

from __future__ import annotations

from qtpy.QtWidgets import QMessageBox, QWidget

from napari_crln.gui.questions import Question


def confirmed(parent: QWidget, question: Question) -> bool:
    """Whether the user says yes; Escape and Return say no."""
    box = QMessageBox(parent)
    box.setWindowTitle(question.title)
    box.setText(question.text)
    box.setInformativeText(question.details)
    yes = box.addButton(question.yes, QMessageBox.ButtonRole.AcceptRole)
    box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
    box.exec()
    return bool(box.clickedButton() is yes)
