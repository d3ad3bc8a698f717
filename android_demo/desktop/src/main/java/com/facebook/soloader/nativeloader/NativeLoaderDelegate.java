package com.facebook.soloader.nativeloader;

/** Stands in for the loader's interface. */
public interface NativeLoaderDelegate {}
