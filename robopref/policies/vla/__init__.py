"""Vision-language-action models at full size: Hugging Face models and OpenVLA as ``TokenPolicy``."""
