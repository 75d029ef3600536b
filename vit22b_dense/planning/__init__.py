"""Which set-up of a backbone, a decoder and a regime fits which machine, counted without running anything."""
