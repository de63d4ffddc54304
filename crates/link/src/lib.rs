//! How a control plane and an agent talk: the agent's contract, mTLS, enrolment, reverse HTTP/2.
