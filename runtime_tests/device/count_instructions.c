/* A qemu plugin: counts the guest's instructions between the two marker system calls of runner.cpp, all of them and
 * some kinds of ARM64's, and prints "count KIND N" lines to stderr. For programs of one thread.
 *
 * The declarations are those of version 1 of qemu's plugin interface (qemu 4.2 to 8.2), written out because
 * distributions do not package the header.
 */

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translated_fn)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_fn)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_fn);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_fn);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

enum { BEGIN = 9001, END = 9002 };

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* Encodings of the Arm Architecture Reference Manual: an instruction is of a kind if it has `value` where `mask` is 1.
 * The first kind that fits is taken; the first row, of all, is counted apart. */
static struct {
    const char *kind;
    uint32_t mask, value;
    uint64_t executed, at_begin;
} kinds[] = {
    {"instructions", 0, 0, 0, 0},
    {"int8 matrix", 0xdfe0fc00, 0x4e80a400, 0, 0},     /* smmla, ummla */
    {"int8 matrix", 0xffe0fc00, 0x4e80ac00, 0, 0},     /* usmmla */
    {"int8 dot", 0x9fe0fc00, 0x0e809400, 0, 0},        /* sdot, udot (vectors) */
    {"int8 dot", 0x9fc0f400, 0x0f80e000, 0, 0},        /* sdot, udot (by element) */
    {"int8 multiply", 0x9fe0dc00, 0x0e208000, 0, 0},   /* smlal, umlal and the subtracting; 8 to 16 bits */
    {"int8 multiply", 0x9fe0fc00, 0x0e20c000, 0, 0},   /* smull, umull; 8 to 16 bits */
    {"int16 multiply", 0x9fe0dc00, 0x0e608000, 0, 0},  /* smlal, umlal and the subtracting; 16 to 32 bits */
    {"int16 multiply", 0x9fe0fc00, 0x0e60c000, 0, 0},  /* smull, umull; 16 to 32 bits */
    {"int16 multiply", 0x9fc0b400, 0x0f402000, 0, 0},  /* smlal, umlal and the subtracting by element; 16 to 32 */
    {"int16 multiply", 0x9fc0f400, 0x0f40a000, 0, 0},  /* smull, umull by element; 16 to 32 */
    {"float32 multiply", 0xbfe0fc00, 0x0e20cc00, 0, 0},   /* fmla (vectors) */
    {"float32 multiply", 0xbfc0f400, 0x0f801000, 0, 0},   /* fmla (by element) */
    {"float32 multiply", 0xbfe0fc00, 0x2e20dc00, 0, 0},   /* fmul (vectors) */
    {"float32 multiply", 0xbfc0f400, 0x0f809000, 0, 0},   /* fmul (by element) */
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Adds a whole block of instructions when it is entered: a system call ends its block, so markers fall between. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    size_t size = qemu_plugin_tb_n_insns(block), found[KINDS] = {size};
    for (size_t i = 0; i < size; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        for (size_t kind = 1; kind < KINDS; kind++) {
            if ((word & kinds[kind].mask) == kinds[kind].value) {
                found[kind]++;
                break;
            }
        }
    }
    for (size_t kind = 0; kind < KINDS; kind++)
        if (found[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &kinds[kind].executed,
                                                     found[kind]);
}

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    if (number == BEGIN)
        for (size_t kind = 0; kind < KINDS; kind++) kinds[kind].at_begin = kinds[kind].executed;
    if (number != END) return;
    for (size_t kind = 0; kind < KINDS; kind++) {
        uint64_t total = 0;
        while (1) { /* rows of one kind follow each other */
            total += kinds[kind].executed - kinds[kind].at_begin;
            if (kind + 1 == KINDS || strcmp(kinds[kind].kind, kinds[kind + 1].kind)) break;
            kind++;
        }
        fprintf(stderr, "count %s %" PRIu64 "\n", kinds[kind].kind, total);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc,
                                                               char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
