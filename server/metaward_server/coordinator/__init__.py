"""The coordinator as a service: its folder, certificates, hospitals, processes and studies."""
