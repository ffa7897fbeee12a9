"""What could somebody with a seat, a key or a database try? One file for each kind of promise they would break."""
