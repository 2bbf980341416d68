"""Running a network on images: accuracy and predictions."""
