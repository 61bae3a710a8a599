// The activations of a fused stage, over flat dense memory that is in cache.
//
//   o = g(z), in place, and dJ/dz = dJ/do * g'(o), the slope written with o (conv_act_pool2d.h)
//
// Half types are computed in float and rounded once. Bound: the exponential.
//
// Included by one source for each instruction set; everything here has internal linkage.
#include "cpu/elementwise/activation_plan.h"
#include "cpu/elementwise/sigmoid_kernels.h"
#include "cpu/machine/machine.h"

namespace tmc {
namespace {

struct Sigmoid {
  static constexpr Ties kTies = Ties::up;
  template <class T, class Real>
  static Lanes<Real> value(Lanes<Real> z) {
    return sigmoid_of<T>(z);
  }
  template <class Real>
  static Lanes<Real> gradient(Lanes<Real> grad_output, Lanes<Real> o) {
    return grad_output * (1 - o) * o;
  }
};

// NaN passes, in both directions, as in torch.
struct Relu {
  static constexpr Ties kTies = Ties::to_even;
  template <class T, class Real>
  static Lanes<Real> value(Lanes<Real> z) {
    return z <= 0 ? Lanes<Real>{} : z;
  }
  template <class Real>
  static Lanes<Real> gradient(Lanes<Real> grad_output, Lanes<Real> o) {
    return o <= 0 ? Lanes<Real>{} : grad_output;
  }
};

// The Taylor coefficients of tanh(z) / z in z^2, from tanh' = 1 - tanh^2: (2n + 1) c_n = -(sum of c_i c_j, i + j = n -
// 1).
template <class Real>
struct TanhSeries {
  // At |z| = 1/2 a term is a tenth of the one before: 0.1^8 and 0.1^17 are below half a unit in the last place.
  static constexpr int kTerms = sizeof(Real) == 4 ? 9 : 18;
  Real terms[kTerms];
  constexpr TanhSeries() : terms{1} {
    double exact[kTerms] = {1};
    for (int n = 1; n < kTerms; ++n) {
      for (int i = 0; i < n; ++i) exact[n] -= exact[i] * exact[n - 1 - i];
      exact[n] /= 2 * n + 1;
      terms[n] = static_cast<Real>(exact[n]);
    }
  }
};

// With e = exp(-2 |z|), tanh |z| = (1 - e) / (1 + e) = 1 - 2 e / (1 + e), which cancels near zero: there, the series.
struct Tanh {
  static constexpr Ties kTies = Ties::to_even;
  template <class T, class Real>
  static Lanes<Real> value(Lanes<Real> z) {
    constexpr TanhSeries<Real> kSeries;
    const Lanes<Real> square = z * z;
    Lanes<Real> sum = Lanes<Real>{} + kSeries.terms[kSeries.kTerms - 1];
    for (int n = kSeries.kTerms - 2; n >= 0; --n) sum = sum * square + kSeries.terms[n];
    const Lanes<Real> magnitude = z < 0 ? -z : z, e = exp_for<T>(-2 * magnitude);
    const Lanes<Real> far = 1 - 2 * e / (1 + e);
    return magnitude < Real(0.5) ? z * sum : z < 0 ? -far : far;
  }
  template <class Real>
  static Lanes<Real> gradient(Lanes<Real> grad_output, Lanes<Real> o) {
    return grad_output * (1 - o * o);
  }
};

template <class Function, class T>
KERNEL void activate_range(void* values, int64_t begin, int64_t end) {
  using Real = accumulate_t<T>;
  T* z = static_cast<T*>(values) + begin;
  map_elements<Function::kTies>(
      false, end - begin, [](Lanes<Real> x) { return Function::template value<T, Real>(x); }, z,
      static_cast<const T*>(z));
}

template <class Function, class T>
KERNEL void activation_gradient_range(const void* grad_output, const void* activated, void* result, int64_t begin,
                                      int64_t end) {
  using Real = accumulate_t<T>;
  map_elements<Ties::to_even>(
      false, end - begin, [](Lanes<Real> g, Lanes<Real> o) { return Function::template gradient<Real>(g, o); },
      static_cast<T*>(result) + begin, static_cast<const T*>(grad_output) + begin,
      static_cast<const T*>(activated) + begin);
}

template <class Function, class T>
constexpr ActivationLoops kActivation = {activate_range<Function, T>, activation_gradient_range<Function, T>};
template <class T>
constexpr ActivationsByName kActivations = {kActivation<Sigmoid, T>, kActivation<Relu, T>, kActivation<Tanh, T>};

}  // namespace

template <>
const ActivationKernels& compiled<ActivationKernels, kCompiledIsa>() {
  static constexpr ActivationKernels kernels = {kActivations<double>, kActivations<float>, kActivations<BFloat16>,
                                                kActivations<Float16>};
  return kernels;
}

}  // namespace tmc
