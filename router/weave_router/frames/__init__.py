"""Ethernet and IP as the overlay must know them: headers, checksums, fragmentation, segmentation."""
