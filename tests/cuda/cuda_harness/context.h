// A stack of its own, to run a function that can stop and go on: swapcontext, which the address sanitizer can be told
// of, or without the sanitizer longjmp, which makes no system call.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace fibers {

class Context {
 public:
  // `entry` runs at the first resume(); it must begin with arrived(), and never return.
  void start(void (*entry)()) {
    stack_.reset(new char[kStackBytes]);
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.get();
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }

#if defined(__SANITIZE_ADDRESS__)
  void resume() {
    __sanitizer_start_switch_fiber(&caller_fake_stack_, stack_.get(), kStackBytes);
    swapcontext(&caller_, &context_);
    __sanitizer_finish_switch_fiber(caller_fake_stack_, nullptr, nullptr);
  }
  // Back to resume()'s caller, until the next resume().
  void stop() {
    __sanitizer_start_switch_fiber(&fake_stack_, caller_stack_, caller_stack_bytes_);
    swapcontext(&context_, &caller_);
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
  }
  void arrived() { __sanitizer_finish_switch_fiber(nullptr, &caller_stack_, &caller_stack_bytes_); }

 private:
  ucontext_t caller_;
  void *fake_stack_ = nullptr, *caller_fake_stack_ = nullptr;
  const void* caller_stack_ = nullptr;
  std::size_t caller_stack_bytes_ = 0;
#else
  void resume() {
    if (_setjmp(caller_) != 0) return;
    if (started_) _longjmp(place_, 1);
    started_ = true;
    setcontext(&context_);
  }
  void stop() {
    if (_setjmp(place_) == 0) _longjmp(caller_, 1);
  }
  void arrived() {}

 private:
  bool started_ = false;
  jmp_buf place_, caller_;
#endif
  static constexpr std::size_t kStackBytes = 128 << 10;
  std::unique_ptr<char[]> stack_;
  ucontext_t context_;
};

}  // namespace fibers
