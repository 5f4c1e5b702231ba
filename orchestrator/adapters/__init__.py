"""One module per outside thing: SSH, serial console, QMP, QEMU, kernel sources, images, Kbuild."""
