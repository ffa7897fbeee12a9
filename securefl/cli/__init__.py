"""How do people and scripts ask? One door; heavy parts are imported by the command that needs them."""
