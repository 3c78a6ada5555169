#include "store/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static enum err_kind kind_of_errno(int code)
{
	switch (code) {
	case ESRCH:
		return ERR_GONE;
	case ENOSPC:
	case EDQUOT:
		return ERR_FULL;
	case EPERM:
	case EACCES:
		return ERR_DENIED;
	case ENOENT:
		return ERR_NOT_FOUND;
	default:
		return ERR_SYSTEM;
	}
}

int err_set(struct err *err, enum err_kind kind, const char *fmt, ...)
{
	va_list ap;

	err->kind = kind;
	err->sys_errno = 0;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	return -1;
}

static int set_with_errno(struct err *err, int code, const char *fmt, va_list ap)
{
	int used;

	err->kind = kind_of_errno(code);
	err->sys_errno = code;
	used = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	if (used >= 0 && (size_t)used < sizeof(err->msg))
		snprintf(err->msg + used, sizeof(err->msg) - (size_t)used, ": %s", strerror(code));
	return -1;
}

int err_sys(struct err *err, const char *fmt, ...)
{
	int code = errno;
	va_list ap;

	va_start(ap, fmt);
	set_with_errno(err, code, fmt, ap);
	va_end(ap);
	return -1;
}

int err_code(struct err *err, int sys_errno, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_with_errno(err, sys_errno, fmt, ap);
	va_end(ap);
	return -1;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
	char old[sizeof(err->msg)];
	va_list ap;
	int used;

	memcpy(old, err->msg, sizeof(old));
	va_start(ap, fmt);
	used = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	/* A message that becomes too long loses its end. */
	if (used >= 0 && (size_t)used < sizeof(err->msg) &&
	    snprintf(err->msg + used, sizeof(err->msg) - (size_t)used, ": %s", old) < 0)
		err->msg[used] = '\0';
	return -1;
}
