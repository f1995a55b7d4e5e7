"""What the numbers inside versions say: element types, comparison of tensors, the picture of a change."""
