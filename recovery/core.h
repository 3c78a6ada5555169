/*
 * core.h: a process of a snapshot as an ELF core file, as elf(5) and the kernel's fs/binfmt_elf.c lay
 * it out: what gdb opens.
 *
 * Every region has its PT_LOAD, those of programs and libraries with their content too, so that a
 * debugger needs the binaries only for their symbols. Zero pages are holes of the file, and from
 * 1 GiB on they take none of its length either (p_filesz < p_memsz). Registers are those that the
 * process would have gone on with: a thread in a system call stands in front of it.
 */
#ifndef PAWL_RECOVERY_CORE_H
#define PAWL_RECOVERY_CORE_H

#include "store/store.h"

struct core_result {
	uint64_t bytes;     /* of memory, zero pages excluded */
	uint64_t length;    /* of the file, holes included */
	size_t threads, regions;
	size_t missing;     /* regions of files whose content is neither in the snapshot nor on disk */
	char missing_path[256]; /* one of these files */
};

/* Writes process `pid` of the model to path, mode 0600: a complete file that is on the disk appears under that
 * name, in place of an older one, or nothing does. ERR_NOT_FOUND: no such process. ERR_UNSUPPORTED: it is a
 * zombie, or path leads to something that is no regular file. ERR_CORRUPT: a page or the model. */
int core_export(struct store *store, const Snap__Snapshot *model, int32_t pid, const char *path,
		struct core_result *ret, struct err *err);

#endif
