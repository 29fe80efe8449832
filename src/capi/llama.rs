//! The engine with llama.cpp.
