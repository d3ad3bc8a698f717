package com.facebook.jni.annotations;

/** Stands in for fbjni's annotation. */
public @interface DoNotStrip {}
