"""Object detection: detectors on trunks with SE, their boxes as data, and how well they find them."""
