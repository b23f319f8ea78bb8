"""From the reader to the dispatcher: buffers, and the threads that decode and deliver."""
