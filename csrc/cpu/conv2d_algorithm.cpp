#include "conv2d_algorithm.h"

#include <atomic>
#include <cstdlib>

#include "conv2d_ops.h"
#include "isa.h"

namespace tmc {
namespace {

constexpr Conv2dAlgorithm kAlgorithms[] = {Conv2dAlgorithm::matrix_product};
constexpr int kNoPreference = -1;

// The index in kAlgorithms of a name given by `source`; an empty name is no preference.
int preference_of(const char* source, const std::string& name) {
  if (name.empty()) return kNoPreference;
  std::string known;
  int index = 0;
  for (const Conv2dAlgorithm algorithm : kAlgorithms) {
    if (name == algorithm_name(algorithm)) return index;
    known += (index++ == 0 ? "" : ", ") + std::string(algorithm_name(algorithm));
  }
  fail("%s must be one of %s, or empty, got %s", source, known.c_str(), name.c_str());
}

// Starts as TMC_CONV2D_ALGORITHM says.
std::atomic<int>& preference() {
  static std::atomic<int> value = [] {
    const char* name = std::getenv("TMC_CONV2D_ALGORITHM");
    return preference_of("TMC_CONV2D_ALGORITHM:", name == nullptr ? "" : name);
  }();
  return value;
}

// Whether an algorithm can compute the problem at all; matrix_product can compute every one.
bool can_compute(Conv2dAlgorithm, Conv2dPass, const Conv2dProblem&) {
  return true;
}

Conv2dChoice fastest(Conv2dPass, const Conv2dProblem&) {
  return {Conv2dAlgorithm::matrix_product, "the general algorithm, for every shape and dtype"};
}

}  // namespace

const char* pass_name(Conv2dPass pass) {
  switch (pass) {
    case Conv2dPass::forward: return "forward";
    case Conv2dPass::grad_input: return "grad_input";
    default: return "grad_weight";
  }
}

const char* algorithm_name(Conv2dAlgorithm algorithm) {
  switch (algorithm) {
    default: return "matrix_product";
  }
}

Conv2dChoice choose_algorithm(Conv2dPass pass, const Conv2dProblem& problem) {
  const int preferred = preference();
  if (preferred != kNoPreference && can_compute(kAlgorithms[preferred], pass, problem))
    return {kAlgorithms[preferred], "preferred by TMC_CONV2D_ALGORITHM or prefer_conv2d_algorithm"};
  return fastest(pass, problem);
}

namespace {

void prefer_conv2d_algorithm(std::string name) {
  preference() = preference_of("prefer_conv2d_algorithm: name", name);
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CompositeExplicitAutograd, m) {
  m.impl("prefer_conv2d_algorithm", TORCH_BOX(&tmc::prefer_conv2d_algorithm));
}
