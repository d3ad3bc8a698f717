package com.facebook.soloader.nativeloader;

/** Stands in for the loader of libraries: of every name it loads the one that the property `natives` names. */
public final class NativeLoader {
    private static boolean initialized;

    private NativeLoader() {}

    public static synchronized boolean isInitialized() {
        return initialized;
    }

    public static synchronized void init(NativeLoaderDelegate delegate) {
        initialized = true;
    }

    public static boolean loadLibrary(String name) {
        System.load(System.getProperty("natives"));
        return true;
    }
}
