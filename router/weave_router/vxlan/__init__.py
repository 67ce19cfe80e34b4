"""The fast datapath's protocol: who uses the kernel's VXLAN with whom, and which addresses live where; without I/O."""
