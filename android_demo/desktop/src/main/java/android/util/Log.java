package android.util;

/** Stands in for Android's log. */
public final class Log {
    private Log() {}

    public static int e(String tag, String message) {
        System.err.println(tag + ": " + message);
        return 0;
    }

    public static int e(String tag, String message, Throwable error) {
        return e(tag, message + ": " + error);
    }
}
