"""The activation_payloads room."""
