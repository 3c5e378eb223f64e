"""OpenVLA: DINOv2 and SigLIP features, projected into Llama 2, read from and written to the published layout."""
