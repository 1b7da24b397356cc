// Forward declarations of what programs pass around, for headers that only name it.
#pragma once

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA {

class Context;
class Error;
class OpenMP;
class ThreadPool;
struct Config;
struct DeepSeekV2;
struct DeepSeekV3;
struct Serial;
template <class T>
class ConstMatrixView;
template <class T>
class MatrixView;
template <class P>
class Cache;
template <class P>
class Model;

namespace io {
class Tokenizer;
}

}  // namespace dsv3::inline DSV3_ISA
