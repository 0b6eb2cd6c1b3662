"""Models: encoders, fusion, the T-Net, and the networks made of them."""
