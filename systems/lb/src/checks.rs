//! What can only be judged with other objects in view.
