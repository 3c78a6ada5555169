/*
 * alter.c: a snapshot as another machine would have taken it: the newest one of a job is published again
 * with a part of its record changed. The store must not be in use.
 *
 * Usage: alter STORE JOB WHAT...
 *   vdso       another kernel's vdso: its functions are where they were, and do nothing but trap
 *   avx512     it was taken on a CPU with AVX-512
 *   amx-used   the first thread has AMX tiles in use
 *   baseline=N the job was kept to x86-64-vN
 *   layout     the extended registers lie elsewhere, as on another vendor's CPU
 *   clock=S    it was taken S seconds earlier by the wall clock
 *   hostname=H on that machine
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/store.h"

#define AVX512_EBX    (1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31)
#define AVX512_XCR0   0xe0u
#define STATE_BV      512 /* Intel SDM vol. 1, 13.4.2 */
#define STATE_END     576
#define TILES	      (3ull << 17)
#define WORD_7_EBX    2	/* checkpointer/tracee/x86_64_cpu.c */
#define JUMP	      12 /* what the redirection writes over */
#define TRAP	      0xcc

static int fail(const char *what)
{
	fprintf(stderr, "alter: %s\n", what);
	return 1;
}

static int change_vdso(Snap__Host *host)
{
	uint8_t *image = host->vdso.data;
	const Elf64_Ehdr *head = (const void *)image;
	const Elf64_Shdr *sections = (const void *)(image + head->e_shoff);
	int n = 0;

	for (unsigned i = 0; i < head->e_shnum; i++) {
		const Elf64_Sym *symbols = (const void *)(image + sections[i].sh_offset);

		for (uint64_t k = 0; sections[i].sh_type == SHT_DYNSYM &&
				     k < sections[i].sh_size / sizeof(*symbols);
		     k++) {
			if (ELF64_ST_TYPE(symbols[k].st_info) != STT_FUNC || symbols[k].st_size <= JUMP)
				continue;
			memset(image + symbols[k].st_value, TRAP, symbols[k].st_size);
			n++;
		}
	}
	return n ? 0 : fail("no function in the vdso");
}

/* All components 4096 bytes further on, AVX as well. */
static int change_layout(Snap__Snapshot *model)
{
	const uint32_t shift = 4096;

	for (size_t p = 0; p < model->n_processes; p++) {
		for (size_t t = 0; t < model->processes[p]->n_threads; t++) {
			ProtobufCBinaryData *x = &model->processes[p]->threads[t]->xstate;
			uint8_t *wider = calloc(1, x->len + shift);

			if (!wider)
				return fail("no memory");
			memcpy(wider, x->data, x->len < STATE_END ? x->len : STATE_END);
			if (x->len > STATE_END)
				memcpy(wider + STATE_END + shift, x->data + STATE_END, x->len - STATE_END);
			free(x->data);
			x->data = wider;
			x->len += shift;
		}
	}
	for (size_t i = 0; i < model->host->n_state_layout; i++)
		model->host->state_layout[i]->offset += shift;
	return model->host->n_state_layout ? 0 : fail("no layout");
}

static int use_tiles(Snap__Snapshot *model)
{
	ProtobufCBinaryData *x = &model->processes[0]->threads[0]->xstate;
	uint64_t bits;

	if (x->len < STATE_END)
		return fail("no extended registers");
	memcpy(&bits, x->data + STATE_BV, sizeof(bits));
	bits |= TILES;
	memcpy(x->data + STATE_BV, &bits, sizeof(bits));
	return 0;
}

static int change(Snap__Snapshot *model, const char *what)
{
	const char *value = strchr(what, '=');

	if (strcmp(what, "vdso") == 0)
		return change_vdso(model->host);
	if (strcmp(what, "layout") == 0)
		return change_layout(model);
	if (strcmp(what, "amx-used") == 0)
		return use_tiles(model);
	if (strcmp(what, "avx512") == 0 && model->host->n_cpuid > WORD_7_EBX) {
		model->host->cpuid[WORD_7_EBX] |= AVX512_EBX;
		model->host->xcr0 |= AVX512_XCR0;
		return 0;
	}
	if (value && strncmp(what, "baseline=", 9) == 0)
		model->host->cpu_baseline = (uint32_t)atoi(value + 1);
	else if (value && strncmp(what, "clock=", 6) == 0)
		model->clocks->realtime -= strtoull(value + 1, NULL, 10) * 1000000000ull;
	else if (value && strncmp(what, "hostname=", 9) == 0)
		return snap_set_string(&model->host->hostname, value + 1);
	else
		return fail("unknown change");
	return 0;
}

static int publish(struct store *store, const Snap__Snapshot *model, struct snapshot_info *info,
		   struct err *err)
{
	struct store_session *session;

	if (session_begin(&session, store, info->job, info->seq, CODEC_LZ4, err) < 0)
		return -1;
	return session_publish(session, model, info, err);
}

int main(int argc, char **argv)
{
	struct snapshot_info info;
	Snap__Snapshot *model;
	struct store *store;
	struct err err;

	if (argc < 4)
		return fail("usage: alter STORE JOB WHAT...");
	if (store_open(&store, argv[1], STORE_WRITE, &err) < 0 ||
	    store_snapshot_load(store, argv[2], 0, &info, &model, &err) < 0)
		return fail(err.msg);
	for (int i = 3; i < argc; i++)
		if (change(model, argv[i]) != 0)
			return 1;
	if (publish(store, model, &info, &err) < 0)
		return fail(err.msg);
	snap__snapshot__free_unpacked(model, NULL);
	store_close(store);
	return 0;
}
