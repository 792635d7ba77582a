"""What every gRPC service and client needs: errors, server, channels, handshake. Knows nothing of models."""

from __future__ import annotations

import os

# Before grpc is imported. Its core writes to stderr by itself, past all logging and at `info`: a line for every
# handshake that fails, as often as anybody connects. What the operator has set stands.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
