"""One file from raw images of any size to calibrated probabilities: ONNX, torch.export, int8."""
