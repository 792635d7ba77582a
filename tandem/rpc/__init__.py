"""What every gRPC service and client needs: errors, server, channels, handshake. Knows nothing of models."""
