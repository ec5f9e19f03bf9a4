"""What steers the picture: edge, blur, depth and segmentation controls, their weights and the specs JSON."""
