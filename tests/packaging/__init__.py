"""What is shipped: the distributions, the image and what lies beside them."""
