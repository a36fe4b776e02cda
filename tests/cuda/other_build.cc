// A CUDA backend of a build with other headers, which no program is to use.
extern "C" const char* SwinfleetCudaInterface() { return "another build"; }
extern "C" const void* SwinfleetCudaBackend() { return nullptr; }
