"""Networks: V-Net, 3D U-Net, the Dynamic Interaction Module and the prototypes. Pure torch."""
