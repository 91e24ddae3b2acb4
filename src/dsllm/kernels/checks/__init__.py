"""The cases of `dsllm kernels check`: each kernel against its formula in fp64."""
