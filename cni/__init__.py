"""CNI plugins: they translate between the CNI protocol and netkit's engine or ipam."""
