"""Addresses by DHCP: the messages, a client, and the keeper of the leases it gets."""
