#include "tools/doctor.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "store/base/cleanup.h"

void doctor_add(struct doctor_report *report, const char *what, enum doctor_grade grade,
		const char *fmt, ...)
{
	struct doctor_line *line;
	va_list ap;

	if (report->n == sizeof(report->lines) / sizeof(report->lines[0]))
		return;
	line = &report->lines[report->n++];
	line->what = what;
	line->grade = grade;
	va_start(ap, fmt);
	vsnprintf(line->why, sizeof(line->why), fmt, ap);
	va_end(ap);
}

const char *doctor_read_line(const char *path, char *buf, size_t len)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, len - 1);

	if (n <= 0)
		return NULL;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}
