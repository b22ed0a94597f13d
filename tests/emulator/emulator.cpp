#include "tests/emulator/emulator.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

// Leaves the running stack, which *from then tells, and goes on with the one of `to`. What a call
// keeps is on the stacks; ucontext.h's way asks the system about signals at each switch, which took
// half of the time.
extern "C" void ceiling_switch_stack(void** from, void* to);
asm(R"(
.text
.globl ceiling_switch_stack
.type ceiling_switch_stack, @function
ceiling_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ceiling_switch_stack, .-ceiling_switch_stack
)");

namespace ceiling::emulator {

void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

namespace {

constexpr size_t kStack = 256 << 10;
constexpr int kWarp = 32;
constexpr size_t kMostShared = 228 << 10;
alignas(1024) unsigned char g_dynamic[kMostShared];

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Fiber {
  Thread thread;
  void* at = nullptr;  // the top of the stack, while another runs
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
  bool done = false;
  std::deque<std::vector<Copy>> committed;
  std::vector<Copy> open;
  std::deque<std::vector<std::function<void()>>> committed_products;
  std::vector<std::function<void()>> open_products;
};

// What waits for a set of threads: the block at a barrier, the lanes of a warp at an exchange.
struct Meeting {
  int arrived = 0, round = 0;
};
struct Warp {
  uint32_t arrived = 0;
  int round = 0;
  Given giving[kWarp], given[kWarp];
};

struct Block {
  std::vector<Fiber> fibers;  // the first `size` of them are this block's
  size_t size = 0;
  std::vector<Warp> warps;
  Meeting barrier, named[16];
  int done = 0;
  uint64_t progress = 0;  // grows whenever a meeting ends or a thread is done
  const std::function<void()>* kernel = nullptr;
  void* scheduler = nullptr;  // its stack, while a fiber runs
  Fiber* running = nullptr;
};
Block g_block;

void yield() { ceiling_switch_stack(&g_block.running->at, g_block.scheduler); }

void end_barrier_if_all_are_there() {
  Meeting& barrier = g_block.barrier;
  if (barrier.arrived == 0 || barrier.arrived + g_block.done < static_cast<int>(g_block.size))
    return;
  barrier.arrived = 0;
  ++barrier.round;
  ++g_block.progress;
}

void enter() {
  (*g_block.kernel)();
  g_block.running->done = true;
  ++g_block.done;
  ++g_block.progress;
  end_barrier_if_all_are_there();
  yield();
}

void run_block(dim3 grid, dim3 size, uint3 block, size_t shared_bytes, std::mt19937& chance) {
  std::memset(g_dynamic, 0xff, shared_bytes);
  g_block.done = 0;
  g_block.barrier = {};
  for (Meeting& barrier : g_block.named) barrier = {};
  int index = 0;
  for (; index < static_cast<int>(g_block.size); ++index) {
    Fiber& fiber = g_block.fibers[static_cast<size_t>(index)];
    const auto i = static_cast<unsigned>(index);
    fiber.thread = {
        {i % size.x, i / size.x % size.y, i / size.x / size.y}, block, size, grid, index % kWarp};
    fiber.done = false;
    fiber.committed.clear();
    fiber.open.clear();
    fiber.committed_products.clear();
    fiber.open_products.clear();
    // As if enter() had been called: six registers, then where to return to, at the end of 16
    // bytes.
    auto* top = reinterpret_cast<void**>(fiber.stack.get() + kStack);
    top -= reinterpret_cast<uintptr_t>(top) % 16 / sizeof(void*) + 2;
    *top = reinterpret_cast<void*>(&enter);
    fiber.at = top - 6;
  }
  for (Warp& warp : g_block.warps) warp.arrived = 0;
  // Warp after warp, each as far as it gets alone: what lies between two barriers may happen in
  // that order, and shows what counts on another.
  std::vector<size_t> warps(g_block.warps.size()), lanes(kWarp);
  for (size_t i = 0; i < warps.size(); ++i) warps[i] = i;
  for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = i;
  while (g_block.done < static_cast<int>(g_block.size)) {
    const uint64_t before = g_block.progress;
    std::shuffle(warps.begin(), warps.end(), chance);
    std::shuffle(lanes.begin(), lanes.end(), chance);
    for (const size_t warp : warps)
      for (uint64_t at = g_block.progress - 1; at != g_block.progress;) {
        at = g_block.progress;
        for (const size_t lane : lanes) {
          Fiber& fiber = g_block.fibers[warp * kWarp + lane];
          if (fiber.done) continue;
          g_block.running = &fiber;
          ceiling_switch_stack(&g_block.scheduler, fiber.at);
        }
      }
    if (g_block.progress == before) fail("threads wait for others that never come");
  }
}

}  // namespace

const Thread& self() { return g_block.running->thread; }

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  if (shared_bytes > kMostShared) fail("more shared memory than a block may have");
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || threads % kWarp != 0) fail("a block of broken warps");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535)
    fail("a grid that no device launches");
  g_block.size = threads;
  if (g_block.fibers.size() < threads) g_block.fibers.resize(threads);
  g_block.warps.resize(threads / kWarp);
  g_block.kernel = &kernel;
  // The end of what was asked for is the end of the array, for the address sanitizer.
  ASAN_POISON_MEMORY_REGION(g_dynamic + shared_bytes, kMostShared - shared_bytes);
  std::mt19937 chance(5);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) run_block(grid, block, {x, y, z}, shared_bytes, chance);
  ASAN_UNPOISON_MEMORY_REGION(g_dynamic, kMostShared);
}

void* dynamic_shared() { return g_dynamic; }

void block_barrier() {
  Meeting& barrier = g_block.barrier;
  const int round = barrier.round;
  ++barrier.arrived;
  end_barrier_if_all_are_there();
  while (barrier.round == round) yield();
}

void named_barrier(int number, int threads, bool wait) {
  if (number < 1 || number > 15 || threads % kWarp != 0 || threads > static_cast<int>(g_block.size))
    fail("a barrier that a block does not have");
  Meeting& barrier = g_block.named[number];
  const int round = barrier.round;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.round;
    ++g_block.progress;
  }
  while (wait && barrier.round == round) yield();
}

const Given* exchange(uint32_t mask, const void* mine, size_t bytes) {
  const size_t thread = static_cast<size_t>(g_block.running - g_block.fibers.data());
  Warp& warp = g_block.warps[thread / kWarp];
  const int lane = static_cast<int>(thread % kWarp);
  if (!(mask >> lane & 1u)) fail("a lane that is not of its own mask");
  std::memcpy(warp.giving[lane].bytes, mine, bytes);
  warp.arrived |= 1u << lane;
  const int round = warp.round;
  if ((warp.arrived & mask) == mask) {
    std::memcpy(warp.given, warp.giving, sizeof warp.given);
    warp.arrived &= ~mask;
    ++warp.round;
    ++g_block.progress;
  } else {
    while (warp.round == round) yield();
  }
  return warp.given;
}

// All of it lies in this program's static memory, at most 2 GB around the pool.
uint32_t address_of(const void* shared) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(shared) - g_dynamic + (1ll << 31));
}
void* at_address(uint32_t address) { return g_dynamic + (int64_t{address} - (1ll << 31)); }

void copy_later(void* to, const void* from, int bytes) {
  if (reinterpret_cast<uintptr_t>(to) % static_cast<uintptr_t>(bytes) != 0 ||
      reinterpret_cast<uintptr_t>(from) % static_cast<uintptr_t>(bytes) != 0)
    fail("an asynchronous copy begins between whole pieces");
  g_block.running->open.push_back({to, from, bytes});
}
void commit_copies() {
  Fiber& fiber = *g_block.running;
  fiber.committed.push_back(std::move(fiber.open));
  fiber.open.clear();
}
void wait_copies(int left) {
  auto& committed = g_block.running->committed;
  for (; committed.size() > static_cast<size_t>(left); committed.pop_front())
    for (const Copy& copy : committed.front())
      if (copy.from)
        std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
      else
        std::memset(copy.to, 0, static_cast<size_t>(copy.bytes));
}

void product_later(std::function<void()> product) {
  g_block.running->open_products.push_back(std::move(product));
}
void commit_products() {
  Fiber& fiber = *g_block.running;
  fiber.committed_products.push_back(std::move(fiber.open_products));
  fiber.open_products.clear();
}
void wait_products(int left) {
  auto& committed = g_block.running->committed_products;
  for (; committed.size() > static_cast<size_t>(left); committed.pop_front())
    for (const auto& product : committed.front()) product();
}

}  // namespace ceiling::emulator
