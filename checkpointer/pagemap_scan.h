/*
 * pagemap_scan.h: PAGEMAP_SCAN and userfaultfd constants that Debian 12's headers do not have yet.
 * Source: include/uapi/linux/fs.h (Linux 6.7) and include/uapi/linux/userfaultfd.h (Linux 6.7).
 */
#ifndef PAWL_CHECKPOINTER_PAGEMAP_SCAN_H
#define PAWL_CHECKPOINTER_PAGEMAP_SCAN_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define PAGE_IS_WPALLOWED (1u << 0)
#define PAGE_IS_WRITTEN   (1u << 1)
#define PAGE_IS_FILE      (1u << 2)
#define PAGE_IS_PRESENT   (1u << 3)
#define PAGE_IS_SWAPPED   (1u << 4)
#define PAGE_IS_PFNZERO   (1u << 5)
#define PAGE_IS_HUGE      (1u << 6)
#define PAGE_IS_GUARD     (1u << 8) /* Linux 6.15 */

#define PM_SCAN_WP_MATCHING   (1u << 0)
#define PM_SCAN_CHECK_WPASYNC (1u << 1)

struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};

struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};

_Static_assert(sizeof(struct page_region) == 24, "struct page_region of the kernel");
_Static_assert(sizeof(struct pm_scan_arg) == 96, "struct pm_scan_arg of the kernel");

#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define UFFD_WP_UNPOPULATED (1ull << 13)
#define UFFD_WP_ASYNC       (1ull << 15)

#endif
