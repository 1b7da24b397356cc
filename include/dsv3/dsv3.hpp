// Umbrella header for inference: everything but io/, which needs further libraries.
#pragma once

#include "dsv3/core/context.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/core/matrix.hpp"
#ifdef _OPENMP
#include "dsv3/core/openmp.hpp"
#endif
#include "dsv3/core/thread_pool.hpp"
#include "dsv3/kernels/linear.hpp"
#include "dsv3/model/count.hpp"
#include "dsv3/model/generate.hpp"
#include "dsv3/model/init.hpp"
#include "dsv3/model/model.hpp"
#include "dsv3/model/policy.hpp"
#include "dsv3/model/presets.hpp"
#include "dsv3/model/quantize.hpp"
#include "dsv3/modules/gqa.hpp"
#include "dsv3/version.hpp"
