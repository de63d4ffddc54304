//! The control plane: API, services and controllers.
