"""The paper's Fig. 1: decay on two factors is a nuclear norm."""
