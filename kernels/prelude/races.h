// What ThreadSanitizer is told of the host's fibres, if the kernels are compiled with it (-fsanitize=thread): that each is a thread of its own, and
// what a device makes one thread see of another. Only that counts as synchronisation: that lanes show each other values does not, nor the order
// in which fibres happen to run. So what no barrier separates is reported, though it never goes wrong here.
#ifdef __SANITIZE_THREAD__
extern "C" {
void *__tsan_get_current_fiber();
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *at);
void __tsan_release(void *at);
void __tsan_read16(void *at);
void __tsan_write16(void *at);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#define RACES 1
#define UNSEEN_FN __attribute__((no_sanitize_thread))
// While one lives, what its thread does is the machinery's, not the kernel's.
struct Unseen {
    Unseen() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
    ~Unseen() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};
static void *fibre_made() { return __tsan_create_fiber(0); }
static void *fibre_here() { return __tsan_get_current_fiber(); }
static void fibre_gone(void *fibre) { __tsan_destroy_fiber(fibre); }
// 1: switching orders nothing.
UNSEEN_FN static void fibre_next(void *fibre) { __tsan_switch_to_fiber(fibre, 1); }
// Whoever looks at `at` from now on sees what this thread did before.
static void shows(void *at) { __tsan_release(at); }
static void looks(void *at) { __tsan_acquire(at); }
static void reads_16(const void *p) { __tsan_read16((void *)p); }
static void writes_16(void *p) { __tsan_write16(p); }
#else
#define RACES 0
#define UNSEEN_FN
struct Unseen {
    Unseen() {}
};
static void *fibre_made() { return nullptr; }
static void *fibre_here() { return nullptr; }
static void fibre_gone(void *) {}
static void fibre_next(void *) {}
static void shows(void *) {}
static void looks(void *) {}
static void reads_16(const void *) {}
static void writes_16(void *) {}
#endif
