#include "recorder.h"

#include <cstdint>

namespace recorder {
namespace {

bool recording = false;
void* stream_ = nullptr;
std::string events;

}  // namespace

void* current_stream() {
  return stream_;
}
void note(const std::string& event) {
  if (recording) events += event + "\n";
}
void launched(void* stream) {
  note("launch " + std::to_string(reinterpret_cast<std::uintptr_t>(stream)));
}

}  // namespace recorder

extern "C" {

// Begins to record; `stream` is torch's current one from now on.
void harness_record(std::uintptr_t stream) {
  recorder::stream_ = reinterpret_cast<void*>(stream);
  recorder::recording = true;
  recorder::events.clear();
}

// What has been noted since; ends the recording.
const char* harness_recorded() {
  recorder::recording = false;
  return recorder::events.c_str();
}

}  // extern "C"
