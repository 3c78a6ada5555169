/*
 * Redirecting a saved vdso image to the one of this kernel. The saved image is untrusted bytes.
 */
#include <elf.h>
#include <string.h>
#include <sys/syscall.h>

#include "recovery/rebuild.h"

struct image {
	const uint8_t *bytes;
	size_t len;
	const Elf64_Sym *symbols;
	size_t n_symbols;
	const char *names;
	size_t names_len;
};

static bool within(uint64_t offset, uint64_t size, size_t len)
{
	return offset <= len && size <= len - offset;
}

static int find_symbols(struct image *image, const Elf64_Shdr *sections, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const Elf64_Shdr *s = &sections[i], *names;

		if (s->sh_type != SHT_DYNSYM)
			continue;
		if (s->sh_link >= n || !within(s->sh_offset, s->sh_size, image->len) ||
		    s->sh_offset % 8)
			break;
		names = &sections[s->sh_link];
		if (!within(names->sh_offset, names->sh_size, image->len) || names->sh_size == 0 ||
		    image->bytes[names->sh_offset + names->sh_size - 1] != '\0')
			break;
		image->symbols = (const void *)(image->bytes + s->sh_offset);
		image->n_symbols = s->sh_size / sizeof(Elf64_Sym);
		image->names = (const char *)image->bytes + names->sh_offset;
		image->names_len = names->sh_size;
		return 0;
	}
	return err_set(err, ERR_CORRUPT, "a vdso without a usable symbol table");
}

/* bytes must be aligned as malloc aligns. */
static int open_image(struct image *ret, const void *bytes, size_t len, struct err *err)
{
	const Elf64_Ehdr *head = bytes;

	*ret = (struct image){.bytes = bytes, .len = len};
	if (len < sizeof(*head) || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 ||
	    head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_machine != native_elf_machine())
		return err_set(err, ERR_CORRUPT, "a vdso that is no ELF image of this CPU");
	if (head->e_shentsize != sizeof(Elf64_Shdr) || head->e_shoff % 8 ||
	    !within(head->e_shoff, (uint64_t)head->e_shnum * sizeof(Elf64_Shdr), len))
		return err_set(err, ERR_CORRUPT, "a vdso without usable section headers");
	return find_symbols(ret, (const void *)(ret->bytes + head->e_shoff), head->e_shnum, err);
}

static const char *function_name(const struct image *image, const Elf64_Sym *s)
{
	unsigned bind = ELF64_ST_BIND(s->st_info);

	if (ELF64_ST_TYPE(s->st_info) != STT_FUNC || s->st_shndx == SHN_UNDEF ||
	    (bind != STB_GLOBAL && bind != STB_WEAK) || s->st_name >= image->names_len)
		return NULL;
	return image->names + s->st_name;
}

static const Elf64_Sym *find_function(const struct image *image, const char *name)
{
	for (size_t i = 0; i < image->n_symbols; i++) {
		const char *other = function_name(image, &image->symbols[i]);

		if (other && strcmp(other, name) == 0)
			return &image->symbols[i];
	}
	return NULL;
}

/* What does the work where this kernel's vdso lacks the function; -1: nothing (ENOSYS). */
static long call_behind(const char *name)
{
	static const struct {
		const char *name;
		long nr;
	} calls[] = {
		{"clock_gettime", SYS_clock_gettime},
		{"gettimeofday", SYS_gettimeofday},
		{"clock_getres", SYS_clock_getres},
		{"getcpu", SYS_getcpu},
		{"getrandom", SYS_getrandom},
#ifdef SYS_time
		{"time", SYS_time},
#endif
	};

	if (strncmp(name, "__vdso_", 7) == 0)
		name += 7;
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		if (strcmp(calls[i].name, name) == 0)
			return calls[i].nr;
	}
	return -1;
}

static bool has_neighbour(const struct image *image, uint64_t value)
{
	for (size_t i = 0; i < image->n_symbols; i++) {
		const Elf64_Sym *s = &image->symbols[i];

		if (function_name(image, s) && s->st_value > value &&
		    s->st_value - value < NATIVE_JUMP_SIZE)
			return true;
	}
	return false;
}

int vdso_redirect(const void *saved, size_t saved_len, const void *now, size_t now_len,
		  uint64_t now_addr, void *out, size_t *ret_n, struct err *err)
{
	struct image from, to;
	size_t n = 0;

	memcpy(out, saved, saved_len);
	if (open_image(&from, saved, saved_len, err) < 0 || open_image(&to, now, now_len, err) < 0)
		return -1;
	for (size_t i = 0; i < from.n_symbols; i++) {
		const Elf64_Sym *symbol = &from.symbols[i];
		const char *name = function_name(&from, symbol);
		const Elf64_Sym *target = name ? find_function(&to, name) : NULL;

		if (!name)
			continue;
		if (!within(symbol->st_value, NATIVE_JUMP_SIZE, saved_len) ||
		    has_neighbour(&from, symbol->st_value))
			return err_set(err, ERR_UNSUPPORTED, "vdso function %.60s is too short",
				       name);
		if (target)
			native_jump((uint8_t *)out + symbol->st_value, now_addr + target->st_value);
		else
			native_call((uint8_t *)out + symbol->st_value, call_behind(name));
		n++;
	}
	*ret_n = n;
	return 0;
}
