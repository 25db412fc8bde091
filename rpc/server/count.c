/* A plugin of qemu's user-mode emulator: it counts the 64-bit ARM instructions of a process, all and by class.
 *
 * The program inside reads the counts with syscall(COUNT_CALL, uint64_t counts[COUNT_CLASSES]), a number that Linux has
 * no call for. They tell how much work code is, every time the same on any machine; they are no times.
 *
 * qemu's header is seldom packaged with it, so what is used of its interface is declared here.
 * Build: cc -O2 -fPIC -shared -DQEMU_API=1 count.c -o count.so (1 up to qemu 8, 2 for 9.0, 3 from 9.1 on)
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef QEMU_API
#define QEMU_API 1
#endif
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*on_block)(plugin_id, struct qemu_plugin_tb *);
typedef void (*on_run)(unsigned, void *);
typedef void (*on_syscall)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_block);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, on_run, int flags, void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *);
#if QEMU_API < 3
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#else
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#endif

EXPORT int qemu_plugin_version = QEMU_API;

enum { COUNT_CALL = 0x4d4e41 };
/* The order is that of CLASSES in tvm_mnas/devices/farm/instructions.py. */
enum { ALL, MULTIPLY_ADDS, LOADS, STORES, BRANCHES, INTEGER, OTHER_VECTOR, COUNT_CLASSES = 8 };

struct block { uint32_t counts[COUNT_CLASSES]; };
static uint64_t counts[COUNT_CLASSES];
static int64_t guest_base; /* what to add to the program's address for the emulator's */
static int base_known;

/* A vector multiply-add: of floats or halves, by vector or by element, into the same format or a longer one. */
static int is_multiply_add(uint32_t word) {
  static const struct { uint32_t mask, value; } forms[] = {
      {0xBFA0FC00, 0x0E20CC00}, {0xBFA0FC00, 0x0EA0CC00}, /* FMLA, FMLS of vectors */
      {0xBF80F400, 0x0F801000}, {0xBF80F400, 0x0F805000}, /* by element */
      {0xBFE0FC00, 0x0E400C00}, {0xBFE0FC00, 0x0EC00C00}, /* of halves */
      {0xBFC0F400, 0x0F001000}, {0xBFC0F400, 0x0F005000}, /* of halves, by element */
      {0xBFA0FC00, 0x0E20EC00}, {0xBFA0FC00, 0x2E20CC00}, /* FMLAL, FMLAL2: halves into floats */
      {0xBFC0F400, 0x0F800000}, {0xBFC0F400, 0x2F808000}, /* by element */
      {0xBFE0FC00, 0x2EC0FC00}, {0xBFC0F400, 0x0FC0F000}, /* BFMLAL */
      {0xBFE0FC00, 0x2E40FC00}, {0xBFC0F400, 0x0F40F000}, /* BFDOT */
  };
  for (size_t i = 0; i < sizeof forms / sizeof *forms; ++i)
    if ((word & forms[i].mask) == forms[i].value) return 1;
  return 0;
}

/* By the groups of the architecture's top-level encoding. */
static int class_of(uint32_t word) {
  uint32_t group = word >> 25 & 15;
  if ((group & 5) == 4) {
    int literal = (word & 0x3B000000) == 0x18000000, extended = (word & 0x3C800000) == 0x38800000;
    return literal || extended || word >> 22 & 1 ? LOADS : STORES;
  }
  if ((group & 7) == 7) return is_multiply_add(word) ? MULTIPLY_ADDS : OTHER_VECTOR;
  return (group & 14) == 10 ? BRANCHES : INTEGER;
}

static void run(unsigned cpu, void *data) {
  const struct block *block = data;
  (void)cpu;
  for (int i = 0; i < COUNT_CLASSES; ++i) counts[i] += block->counts[i];
}

static void translate(plugin_id id, struct qemu_plugin_tb *translated) {
  struct block *block = calloc(1, sizeof *block);
  size_t size = qemu_plugin_tb_n_insns(translated);
  (void)id;
  if (!block) abort();
  for (size_t i = 0; i < size; ++i) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translated, i);
    uint32_t word = 0;
#if QEMU_API < 3
    memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
#else
    qemu_plugin_insn_data(instruction, &word, sizeof word);
#endif
    ++block->counts[ALL];
    ++block->counts[class_of(word)];
    char *host = qemu_plugin_insn_haddr(instruction);
    if (!base_known && host) {
      guest_base = (int64_t)((uint64_t)host - qemu_plugin_insn_vaddr(instruction));
      base_known = 1;
    }
  }
  qemu_plugin_register_vcpu_tb_exec_cb(translated, run, 0, block);
}

static void hear(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                 uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)cpu, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == COUNT_CALL && base_known) memcpy((void *)(guest_base + (int64_t)a), counts, sizeof counts);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments) {
  (void)info, (void)count, (void)arguments;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  qemu_plugin_register_vcpu_syscall_cb(id, hear);
  return 0;
}
