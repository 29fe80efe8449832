# Read by CMake when it builds llama.cpp (.cargo/config.toml names it): GCC's vectors beside CMake's own -O2.
#
# llama.cpp's kernels lean on the compiler's vectors, of which GCC 12 makes few at -O2: fused attention takes 30 % longer without this
# (benches/record/2026-11-30). Not -O3: there GCC 12 makes a program of amx/mmq.cpp that ends with an illegal instruction.
foreach(language C CXX)
    if(CMAKE_${language}_COMPILER_ID STREQUAL "GNU")
        string(APPEND CMAKE_${language}_FLAGS " -ftree-vectorize -fvect-cost-model=dynamic")
    endif()
endforeach()
