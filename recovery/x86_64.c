#include <asm/prctl.h>
#include <elf.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include "recovery/rebuild.h"

#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023 /* Linux 5.16 */
#endif

#define XSTATE_TILE_DATA 18 /* AMX tiles */

void native_jump(uint8_t code[NATIVE_JUMP_SIZE], uint64_t target)
{
	code[0] = 0x48; /* movabs $target, %rax */
	code[1] = 0xb8;
	memcpy(code + 2, &target, sizeof(target));
	code[10] = 0xff; /* jmp *%rax */
	code[11] = 0xe0;
}

void native_call(uint8_t code[NATIVE_JUMP_SIZE], long nr)
{
	int32_t value = nr < 0 ? -38 /* ENOSYS */ : (int32_t)nr;
	size_t at = 0;

	code[at++] = 0x48; /* mov $value, %rax */
	code[at++] = 0xc7;
	code[at++] = 0xc0;
	memcpy(code + at, &value, sizeof(value));
	at += sizeof(value);
	if (nr >= 0) {
		code[at++] = 0x0f; /* syscall */
		code[at++] = 0x05;
	}
	code[at] = 0xc3; /* ret */
}

unsigned native_elf_machine(void)
{
	return EM_X86_64;
}

size_t native_fpregs_size(void)
{
	return sizeof(struct user_fpregs_struct);
}

unsigned native_xstate_note(void)
{
	return NT_X86_XSTATE;
}

uint64_t native_dynamic_xstate(void)
{
	return 1ull << XSTATE_TILE_DATA;
}

long native_xstate_permission_call(uint64_t *ret_option)
{
	*ret_option = ARCH_REQ_XCOMP_PERM;
	return SYS_arch_prctl;
}
