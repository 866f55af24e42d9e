//! Tests of the slice through its public face.
