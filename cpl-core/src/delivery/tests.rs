//! Tests of the rules of delivery.
